"""The graph behind `faces_decode`."""

import nvidia.dali
from nvidia.dali.plugin.triton import autoserialize

from sidecar_faces.engine.dali_graphs import faces_decode


@autoserialize
@nvidia.dali.pipeline_def(batch_size=8, num_threads=4, device_id=0)
def pipeline():
    return faces_decode("mixed")
