"""The .ecdc file format: layout, header, reader, writer, entropy coding, and the encodec package's format."""
