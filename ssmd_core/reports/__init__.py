"""Daily reports: what is wrong, why, and what to do, each claim with the rows that show it; and what was traded."""
