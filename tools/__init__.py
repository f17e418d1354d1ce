"""Programs that developers run; none of them is part of the package."""
