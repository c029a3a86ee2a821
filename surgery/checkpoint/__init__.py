"""The only code that touches weight files: readers and writers by format, headers without torch, the journal."""
