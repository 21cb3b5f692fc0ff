# SPDX-License-Identifier: Apache-2.0
"""What can go wrong while a provider is set up. Measuring never raises any of these.

OtelShmError
├── BufferPathError     the path cannot be used (also an OSError): permission, owner, no space, ...
├── BufferFormatError   what lies at the path is not a complete buffer of this version
├── BufferSizeError     a size option is out of range (also a ValueError)
└── BufferFullError     no room for a scope or an instrument
"""

from __future__ import annotations


class OtelShmError(Exception):
    """Base of the errors of this package."""


class BufferPathError(OtelShmError, OSError):
    """The path of a buffer cannot be used. `errno` is set where a system call failed."""


class BufferFormatError(OtelShmError):
    """The file is not a complete buffer of this version, made on a machine like this one."""


class BufferSizeError(OtelShmError, ValueError):
    """`series`, `lanes` or `record_bytes` is out of range."""


class BufferFullError(OtelShmError):
    """The buffer has no room for one more scope or instrument."""
