"""What an hour's capture can prove about itself: coverage, integrity, and the signed ledger that holds both."""
