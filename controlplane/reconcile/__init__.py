"""The queue, the lease, the pass: how desired state becomes real. Knows no kind of resource."""
