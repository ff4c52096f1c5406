"""python -m data FOLDER MANIFEST.jsonl: reads the headers of a folder once, so that later runs need not."""

import argparse
import sys

from codec.audio import describe_skipped, error_text, readable
from data.bandwidth import measure_bandwidths
from data.entries import DataError
from data.scan import scan_folder


def main(arguments: list[str]) -> int:
    """Scans the folder and writes the manifest; returns the exit status."""
    parser = argparse.ArgumentParser("python -m data", description="Lists the audio of a folder in a manifest.")
    parser.add_argument("folder", help="searched for audio, with all folders below it")
    parser.add_argument("manifest", help="file to write, with the suffix .jsonl")
    parser.add_argument("--bandwidth", action="store_true", help="also measure where the spectrum of each file ends")
    options = parser.parse_args(arguments)
    try:
        if not options.manifest.endswith(".jsonl"):
            raise DataError(f"{readable(options.manifest)}: expected a name that ends in .jsonl for the manifest")
        manifest = scan_folder(options.folder)
        if options.bandwidth:
            manifest = measure_bandwidths(manifest)
        manifest.save(options.manifest)
    except (DataError, OSError) as error:
        print(error_text(error), file=sys.stderr)
        return 1
    for line in describe_skipped(manifest.skipped_files):
        print(f"skipped: {line}", file=sys.stderr)
    print(f"{readable(options.manifest)}: {len(manifest.entries)} files, {manifest.seconds / 60:.1f} min")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
