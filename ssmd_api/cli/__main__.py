"""`python -m ssmd_api.cli`: the same as `ssmd`."""

from ssmd_api.cli.main import main

if __name__ == "__main__":
    main()
