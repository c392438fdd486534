"""dbward: approval, policy and a tamper-evident record in front of production databases."""

VERSION = "0.1.0"
