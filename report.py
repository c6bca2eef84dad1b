"""Write report.html of a finished run again, from its metrics.json.

    python report.py results/openmoji/RUN
"""

from reporting.page import main

if __name__ == "__main__":
    main()
