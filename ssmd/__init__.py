"""ssmd for researchers: `ssmd.Client` lists, downloads and reads captured market data."""

from ssmd.client import Client
from ssmd.errors import ApiError, ClientError, IntegrityError, MissingHours, MissingHoursError, MissingHoursWarning
from ssmd.files import File

__all__ = [
    "ApiError",
    "Client",
    "ClientError",
    "File",
    "IntegrityError",
    "MissingHours",
    "MissingHoursError",
    "MissingHoursWarning",
]
