"""Parsers of tensor files: header bytes in, Layout out; pure."""
