"""Run the command line: python -m audiencesync."""


def main() -> None:
    """Run the command line."""
    import atexit
    import gc

    # a batch job makes few cycles: looking for them after every 700 objects costs it a tenth, and once more at the
    # very end, when everything goes anyway, 0.1 s of every command
    gc.set_threshold(100_000, 50, 50)
    atexit.register(gc.freeze)
    from audiencesync.cli import run

    run()


if __name__ == "__main__":
    main()
