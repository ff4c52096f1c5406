"""python -m data FOLDER MANIFEST.jsonl: reads the headers of a folder once, so that later runs need not."""

import sys

from data.manifest import DataError, scan_folder


def main(arguments: list[str]) -> int:
    """Scans the folder and writes the manifest; returns the exit status."""
    if len(arguments) != 2:
        print("usage: python -m data FOLDER MANIFEST.jsonl", file=sys.stderr)
        return 2
    try:
        manifest = scan_folder(arguments[0])
        manifest.save(arguments[1])
    except (DataError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for path, reason in manifest.skipped_files:
        print(f"skipped: {path}: {reason}", file=sys.stderr)
    print(f"{arguments[1]}: {len(manifest.entries)} files, {manifest.seconds / 60:.1f} min")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
