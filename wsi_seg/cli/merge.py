"""`wsi-seg merge`: the tables of a job array made one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.cli.output import say


def merge(
    output: Annotated[Path, typer.Argument(help="Folder of the results of all shares.")],
) -> int:
    """Write batch.csv, failed.csv and report.html of the shares of `wsi-seg run --array N/M`.

    Run it when they have ended, and again after some of them were run again. Exit codes are those of run: 3
    also where a share is missing or has not ended.
    """
    from wsi_seg.cli.run import EXIT_SOME_FAILED, describe_all, exit_code
    from wsi_seg.pipeline.shares import merge_shares

    merged = merge_shares(output)
    statuses = [str(row.get("status")) for row in merged.rows]
    if merged.missing:
        said = ", ".join(f"{share.number}" for share in merged.missing)
        say(
            f"error: shares {said} of {merged.missing[0].count} have not run; run them, then merge again",
            err=True,
        )
    if merged.unlike:
        said = ", ".join(f"{share.number}" for share in merged.unlike)
        say(
            f"error: shares {said} of {merged.unlike[0].count} were cut from another list of slides than the "
            "others, so a slide may be in none; run the whole array again (what is done is skipped)",
            err=True,
        )
    say(describe_all(statuses, str(output)))
    return exit_code(statuses) or (EXIT_SOME_FAILED if merged.missing or merged.unlike else 0)
