"""A gate's verdict as JUnit XML, which CI systems show: a view of its document."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from compressor.core import Json

__all__ = ["junit"]


def junit(document: Mapping[str, Json], hostname: str) -> str:
    """One suite, one test case a limit: a missed one is a failure, one that could not be told an error.

    In the form of the Apache Ant schema, the strictest of those in use, which Jenkins and GitLab read too.
    """
    checks = document["checks"]
    verdicts = [check["verdict"] for check in checks]
    seconds = f"{document['seconds']:.3f}"
    name = _plain(document["models"]["candidate"]["path"])
    root = Element("testsuites")
    suite = SubElement(
        root,
        "testsuite",
        name=f"compress gate {name}",
        package="compressor",
        id="0",
        timestamp=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        hostname=_plain(hostname) or "localhost",
        tests=str(len(checks)),
        failures=str(verdicts.count("fail")),
        errors=str(len(verdicts) - verdicts.count("fail") - verdicts.count("pass")),
        skipped="0",
        time=seconds,
    )
    properties = SubElement(suite, "properties")
    for key, value in _properties(document).items():
        SubElement(properties, "property", name=key, value=_plain(value))
    for check in checks:
        # The time of the whole is the first one's: what was measured was measured for all of them.
        took = seconds if check is checks[0] else "0.000"
        case = SubElement(suite, "testcase", name=check["name"], classname=f"compressor.gate.{name}", time=took)
        if check["verdict"] != "pass":
            kind = "failure" if check["verdict"] == "fail" else "error"
            told = SubElement(case, kind, message=_plain(check["why"]), type=check["verdict"])
            told.text = _plain(check["why"])
    SubElement(suite, "system-out").text = "\n".join(_plain(check["why"]) for check in checks)
    SubElement(suite, "system-err")
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _properties(document: Mapping[str, Json]) -> dict[str, str]:
    found = {"verdict": document["verdict"]}
    for name, model in document["models"].items():
        found |= {f"{name}.path": model["path"], f"{name}.sha256": model["sha256"]}
    if "runtime" in document:
        found |= {"device": document["device"]["cpu"], "runtime": document["runtime"], "board": document["board"] or ""}
    return {key: str(value) for key, value in found.items()}


def _plain(text: object) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in str(text)).encode("utf-8", "replace").decode()
