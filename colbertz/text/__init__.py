"""Text without models: normalising, words, stems, stop words, and BM25 over them."""
