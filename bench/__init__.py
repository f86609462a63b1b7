"""Measure the distributer's doors beside other proxies. Run as `python -m bench`; README.md tells the method."""
