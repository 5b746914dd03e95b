"""The pods that KubernetesExecutor makes of the DAGs' tasks."""

import json
import os
import subprocess
import sys

import kubernetes_validate
import pytest
from pods.manifests import PROJECT, VALUES, pod_template


def environment(home, executor):
    sizes = {each["name"]: each["value"] for each in VALUES["env"]}
    return {
        **os.environ,
        **sizes,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": executor,
        "DERMASCAN_TRAIN_IMAGE": "dermascan-gpu:0.1.0",
        "PYTHONPATH": str(PROJECT),
    }


@pytest.fixture(scope="module")
def pods(tmp_path_factory):
    folder = tmp_path_factory.mktemp("airflow")
    template, output = folder / "pod.yaml", folder / "pods.json"
    template.write_text(pod_template())
    script = PROJECT / "tests" / "pods" / "task_pods.py"
    command = [sys.executable, script, template, output]
    done = subprocess.run(
        command,
        env=environment(folder, "KubernetesExecutor"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(output.read_text())


def test_training_has_the_gpu_the_image_and_the_node_for_it(pods):
    spec = pods["train_model.train"]["spec"]
    (container,) = spec["containers"]

    assert container["resources"]["limits"] == {
        "cpu": "4",
        "memory": "16Gi",
        "nvidia.com/gpu": "1",
        "ephemeral-storage": "20Gi",
    }
    assert container["image"] == "dermascan-gpu:0.1.0"
    assert [each["key"] for each in spec["tolerations"]] == ["nvidia.com/gpu"]


def test_only_training_asks_for_a_gpu(pods):
    asking = [name for name, pod in pods.items() if "nvidia.com/gpu" in json.dumps(pod)]

    assert asking == ["train_model.train"]


@pytest.mark.parametrize(
    ("task", "cpus"), [("batch_inference.predict", "2"), ("batch_inference.resolve", "1")]
)
def test_task_that_decodes_images_has_a_larger_pod_than_one_that_lists_them(pods, task, cpus):
    assert pods[task]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == cpus


def test_every_pod_is_valid_and_as_hardened_as_the_template(pods):
    for pod in pods.values():
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["resources"]["limits"].keys() >= {"cpu", "memory", "ephemeral-storage"}
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True


def test_parsing_dags_imports_nothing_of_kubernetes_where_tasks_are_processes(tmp_path):
    code = (
        "import sys; sys.path[:0] = sys.argv[1:];"
        "import train_model, batch_inference, ingest_isic;"
        "assert train_model.pod(train_model.training_size()) == {};"
        "assert 'kubernetes.client' not in sys.modules"
    )
    folders = [PROJECT / "dags", PROJECT / "plugins"]
    done = subprocess.run(
        [sys.executable, "-c", code, *folders],
        env=environment(tmp_path, "LocalExecutor"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
