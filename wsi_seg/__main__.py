"""`python -m wsi_seg` is `wsi-seg`."""

from wsi_seg.cli import main

main()
