"""The checks of `dbward doctor`: one module for each kind of configuration, and what they have in common."""
