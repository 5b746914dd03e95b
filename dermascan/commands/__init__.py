"""The commands of the command line. What is slow to import is imported when it is needed."""
