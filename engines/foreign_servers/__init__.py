"""Model servers of other projects (DJL Serving, Multi Model Server), started around our handlers."""
