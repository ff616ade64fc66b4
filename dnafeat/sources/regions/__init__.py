"""Regions of a reference genome: BED, GFF3 and GTF files into parts of contigs, and the letters there."""
