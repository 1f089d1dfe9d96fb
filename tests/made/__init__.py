"""Slides, results, data sets and predictors with known content, for tests, benchmarks and demonstrations."""
