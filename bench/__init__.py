# SPDX-License-Identifier: MIT
"""What `make bench` runs: each row is a ratio against a floor that was measured in the same run."""
