"""What users of the docker library for Python do with a swarm, on a node that is in none.

usage: exercise.py SOCKET ADDRESS
Every step checks what it gets; the last line of the output is "done".
"""

import sys
import time

import docker
from docker.errors import APIError, NotFound
from docker.types import (
    ConfigReference,
    EndpointSpec,
    Resources,
    RestartPolicy,
    RollbackConfig,
    SecretReference,
    ServiceMode,
    UpdateConfig,
)


def refused(status, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except APIError as error:
        assert error.response.status_code == status, error
        return error.explanation
    raise AssertionError(f"{call} was not refused")


def eventually(what, check, seconds=30):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def swarm_updated(client, **settings):
    def update():
        client.swarm.reload()
        try:
            client.swarm.update(**settings)
        except APIError as error:
            assert "update out of sequence" in str(error), error
            return False
        return True

    eventually("the swarm is updated", update)
    client.swarm.reload()


def unlock_keys(client):
    def key():
        return client.swarm.get_unlock_key()["UnlockKey"]

    assert key() == ""
    refused(409, client.swarm.unlock, "SWMKEY-1-x")
    swarm_updated(client, autolock_managers=True)
    assert client.swarm.attrs["Spec"]["EncryptionConfig"]["AutoLockManagers"]
    first = key()
    assert first.startswith("SWMKEY-1-") and len(first) == 52, len(first)
    swarm_updated(client, autolock_managers=True, rotate_manager_unlock_key=True)
    assert key() not in ("", first)
    swarm_updated(client, autolock_managers=False)
    assert key() == ""


def swarm(client, address):
    assert client.ping()
    assert client.version()["ApiVersion"] == client.api.api_version
    assert client.info()["Swarm"]["LocalNodeState"] == "inactive"
    refused(503, client.secrets.list)
    node_id = client.swarm.init(advertise_addr=address, listen_addr=f"{address}:2377", snapshot_interval=5000)
    assert client.info()["Swarm"]["NodeID"] == node_id
    assert client.swarm.attrs["Spec"]["Raft"]["SnapshotInterval"] == 5000
    tokens = client.swarm.attrs["JoinTokens"]
    client.swarm.update(rotate_worker_token=True, task_history_retention_limit=3)
    client.swarm.reload()
    assert client.swarm.attrs["JoinTokens"]["Worker"] != tokens["Worker"]
    assert client.swarm.attrs["JoinTokens"]["Manager"] == tokens["Manager"]
    assert client.swarm.attrs["Spec"]["Orchestration"]["TaskHistoryRetentionLimit"] == 3
    unlock_keys(client)
    refused(503, client.swarm.init, advertise_addr=address)
    return node_id


def nodes(client, node_id):
    (node,) = client.nodes.list(filters={"role": "manager"})
    assert node.id == node_id and node.attrs["ManagerStatus"]["Leader"]
    assert client.nodes.list(filters={"role": "worker"}) == []
    node.update({"Role": "manager", "Availability": "active", "Labels": {"dc": "east"}})
    assert client.nodes.get(node_id).attrs["Spec"]["Labels"] == {"dc": "east"}
    assert client.nodes.list(filters={"node.label": "dc=east"})
    refused(404, client.nodes.get, "nosuch")


def objects(collection, kind):
    made = collection.create(name=f"a_{kind}", data=b"hunter2\n", labels={"l": "1"})
    again = collection.get(made.id)
    assert again.attrs["Spec"]["Labels"] == {"l": "1"}
    assert ("Data" in again.attrs["Spec"]) == (kind == "config")
    assert [one.name for one in collection.list(filters={"label": "l=1"})] == [f"a_{kind}"]
    assert collection.list(filters={"name": "nosuch"}) == []
    refused(409, collection.create, name=f"a_{kind}", data=b"x")
    refused(400, collection.create, name="not a name", data=b"x")
    try:
        collection.get("nosuch")
        raise AssertionError("found what is not there")
    except NotFound as error:
        assert error.explanation == f"{kind} nosuch not found", error
    return again


def running(service, count):
    tasks = service.tasks(filters={"desired-state": "running"})
    return len(tasks) == count and all(task["Status"]["State"] == "running" for task in tasks)


def updated(service, **changes):
    try:
        service.update(fetch_current_spec=True, **changes)
    except APIError as error:
        assert "update out of sequence" in str(error), error
        return False
    return True


def services(client, secret, config):
    service = client.services.create(
        "host",
        ["sh", "-c", "cat /run/secrets/a_secret /cfg 2>/dev/null; echo started; exec sleep 1000"],
        name="web",
        labels={"tier": "front"},
        env=["A=1"],
        networks=["host"],
        secrets=[SecretReference(secret.id, secret.name)],
        mode=ServiceMode("replicated", 2),
        restart_policy=RestartPolicy("any", delay=1_000_000_000),
        update_config=UpdateConfig(parallelism=1, monitor=1_000_000_000, order="start-first"),
        rollback_config=RollbackConfig(parallelism=2),
        stop_grace_period=1_000_000_000,
    )
    eventually("two tasks run", lambda: running(service, 2))
    assert [one.name for one in client.services.list(filters={"label": "tier=front"})] == ["web"]
    (listed,) = client.services.list(status=True)
    assert listed.attrs["ServiceStatus"]["RunningTasks"] == 2, listed.attrs

    def printed():
        text = b"".join(service.logs(stdout=True, stderr=True))
        return text.count(b"hunter2") == 2 and text.count(b"started") == 2

    # A process runs before it has printed anything.
    eventually("both have printed", printed)
    said = refused(400, secret.remove)
    assert "is in use by the following service: web" in said, said

    service.scale(1)
    eventually("one task runs", lambda: running(client.services.get("web"), 1))
    # The library sends defaults along, which is an update of its own: its progress is written to
    # the service, so that who changes it next may have to look again.
    eventually("the update is taken", lambda: updated(client.services.get("web"), env=["A=2"]))
    service = client.services.get("web")
    assert service.attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=2"]
    assert service.attrs["PreviousSpec"]["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=1"]
    eventually(
        "the update ends",
        lambda: client.services.get("web").attrs.get("UpdateStatus", {}).get("State") == "completed",
    )
    before = client.services.get("web").attrs["Spec"]["TaskTemplate"].get("ForceUpdate", 0)
    client.services.get("web").force_update()
    after = client.services.get("web").attrs["Spec"]["TaskTemplate"]["ForceUpdate"]
    assert after == before + 1
    refused(404, client.services.get, "nosuch")
    refused(409, client.services.create, "host", ["true"], name="web", networks=["host"])
    # What is not offered is said by name.
    said = refused(501, client.networks.create, "own", driver="overlay")
    assert "networks of driver overlay are not offered" in said, said
    client.services.create(
        "host",
        ["sleep", "1000"],
        name="other",
        networks=["host"],
        mode=ServiceMode("global"),
        resources=Resources(mem_reservation=8 << 20),
        endpoint_spec=EndpointSpec(mode="vip"),
        configs=[],
    )
    eventually("the global task runs", lambda: running(client.services.get("other"), 1))
    assert ConfigReference(config.id, config.name)["ConfigID"] == config.id
    for name in ("web", "other"):
        assert client.services.get(name).remove()
    eventually("no tasks are left", lambda: client.api.tasks() == [])


def events(client, since):
    told = client.events(since=since, until=int(time.time()) + 1, decode=True, filters={"type": ["secret", "service"]})
    seen = [(event["Type"], event["Action"]) for event in told]
    for wanted in (("secret", "create"), ("service", "create"), ("service", "update"), ("service", "remove")):
        assert wanted in seen, (wanted, seen)
    assert all(kind in ("secret", "service") for kind, _ in seen), seen


def main():
    socket, address = sys.argv[1:]
    client = docker.DockerClient(base_url=f"unix://{socket}", version="auto", timeout=60)
    since = int(time.time()) - 1
    node_id = swarm(client, address)
    nodes(client, node_id)
    secret = objects(client.secrets, "secret")
    config = objects(client.configs, "config")
    services(client, secret, config)
    assert secret.remove() and config.remove()
    assert client.secrets.list() == [] and client.configs.list() == []
    events(client, since)
    assert [network.name for network in client.networks.list()] == ["host", "none", "bridge"]
    refused(503, client.swarm.leave)
    assert client.swarm.leave(force=True)
    assert client.info()["Swarm"]["LocalNodeState"] == "inactive"
    print("done")


if __name__ == "__main__":
    main()
