"""Models: where they are found (`registry`, free of torch), their networks, and predictors."""
