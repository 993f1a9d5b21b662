"""The CloutAgent server: a self-hosted control plane for Claude agents."""

from importlib.metadata import version

__version__ = version("cloutagent-server")
"""The version of this distribution."""
