"Side-by-side speed, memory and statistics: `python -m bench [NAME …]` writes bench/results/NAME.json and prints a table."
