"""The viewer: `wsi-seg view`, a local server that reads results and serves a page.

`server` starts it, `app` lists its routes, `state` holds what is open, `security` says who may ask; `web`
is the source of the page and `static` the build of it.
"""

__all__ = ["server", "state"]
