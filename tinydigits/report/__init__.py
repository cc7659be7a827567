"""What a run leaves for people: figures, the summary, and a page that explains them."""
