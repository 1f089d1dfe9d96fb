"""Looking at results in a browser: `wsi-seg view`, a local server that only reads."""
