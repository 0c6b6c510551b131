"""Run the command line: python -m audiencesync."""


def main() -> None:
    """Run the command line."""
    import atexit
    import gc

    # a batch job makes few cycles: looking for them after every 700 objects costs it a tenth, and once more at the
    # very end, when everything goes anyway, 0.1 s of every command
    gc.set_threshold(100_000, 50, 50)
    atexit.register(_leave_as_it_is)
    from audiencesync.cli import run

    run()


def _leave_as_it_is() -> None:
    """Spare the last collection, except to DuckDB, which would take what is left for a leak and say so at length."""
    import gc
    import sys

    if "duckdb" not in sys.modules:
        gc.freeze()


if __name__ == "__main__":
    main()
