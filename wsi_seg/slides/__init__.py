"""Slides: opening them, reading boxes at any resolution, and telling one from another.

`readers.open_slide` returns a `slide.Slide`; `tolerant` reads around damage, `local_copies` fetches slides
behind URLs, `dicomweb` asks servers, `identity` compares contents, `mpp` finds the resolution, `about` says
what else a file states, and `sample` holds the packaged slide.
A new slide format is a new module of `readers`, named in its table; a new decoder goes into
`readers.tiff_codecs`.
"""

__all__ = ["about", "dicomweb", "identity", "local_copies", "mpp", "readers", "sample", "slide", "tolerant"]
