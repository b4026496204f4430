"""The embedded default task: scikit-learn's digits, its network, its weights and the script that trained them."""
