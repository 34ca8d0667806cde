"""The only importer of torch, MONAI and ignite: builds a job's components, trains, validates, and exports tensors."""
