"""Model servers of other projects: DJL Serving and Multi Model Server around our handlers, others as they are."""
