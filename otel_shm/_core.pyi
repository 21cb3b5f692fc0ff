# SPDX-License-Identifier: Apache-2.0
# Types of the compiled module: csrc/cffi_build.py. What is in lib is declared in csrc/binding.h and
# csrc/layout.h.
from typing import Any

ffi: Any
lib: Any
