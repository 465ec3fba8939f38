"""The arithmetic: accounts, holds and the one admission rule."""
