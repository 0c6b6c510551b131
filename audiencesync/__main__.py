"""Run the command line: python -m audiencesync."""


def main() -> None:
    """Run the command line."""
    from audiencesync.cli import run

    run()


if __name__ == "__main__":
    main()
