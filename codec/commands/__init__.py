"""The commands of `codec`, one module each: `add` describes its options, and what it does stands below."""
