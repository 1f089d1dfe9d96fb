"""Review: what people say of the regions of results, kept next to the results and never in them.

`entries` is one verdict, `store` the append-only journals of a folder, `state` what holds after all
entries, `results` what is reviewed, `carry` puts verdicts on its regions, `agreement` compares two
reviewers, `editing` changes outlines, `exchange` is GeoJSON for QuPath and back, `drawn` what it reads,
`places` says where reviews are kept, and `progress` how far they are. Training reads `store` and `state`:
`fold(ReviewStore(folder).read(slide).entries)`.
"""

__all__ = [
    "agreement", "carry", "editing", "entries", "exchange", "places", "progress", "results", "state",
    "store",
]  # fmt: skip
