"""Run the command line: python -m audiencesync."""


def main() -> None:
    """Run the command line."""
    import gc

    # a batch job makes few cycles; looking for them after every 700 objects costs it a twentieth
    gc.set_threshold(100_000, 50, 50)
    from audiencesync.cli import run

    run()


if __name__ == "__main__":
    main()
