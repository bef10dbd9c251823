"Paired measurement in one process: CPU seconds, alternating, medians of ratios."
import statistics, time


def cpu(f):
    "CPU seconds of one call."
    t = time.process_time(); f()
    return time.process_time() - t


def anew(p):
    "The same rows of predictions, with nothing worked out of them yet."
    p = p[:]
    p.derived = {}
    return p


def paired(ours, other, n=15, warm=1):
    "Medians of CPU seconds of both and of their ratio, call by call in turn."
    for _ in range(warm): ours(); other()
    pairs = [(cpu(ours), cpu(other)) for _ in range(n)]
    return dict(ours_s=statistics.median(a for a, _ in pairs), other_s=statistics.median(b for _, b in pairs), ratio=statistics.median(a/b for a, b in pairs), alternations=n)
