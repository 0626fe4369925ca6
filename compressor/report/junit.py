"""A gate's verdict as JUnit XML, which CI systems show."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from compressor.core import Json

__all__ = ["junit"]


def junit(document: Mapping[str, Json], hostname: str) -> str:
    """Render one suite with a test case for each limit.

    A missed limit is a failure; an inconclusive or invalid one is an error. The form is that of the Apache Ant
    schema, the strictest in use, which Jenkins and GitLab read too.
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
        # All limits share one measurement: the first test case carries its time.
        time = seconds if check is checks[0] else "0.000"
        case = SubElement(suite, "testcase", name=check["name"], classname=f"compressor.gate.{name}", time=time)
        if check["verdict"] != "pass":
            kind = "failure" if check["verdict"] == "fail" else "error"
            outcome = SubElement(case, kind, message=_plain(check["why"]), type=check["verdict"])
            outcome.text = _plain(check["why"])
    SubElement(suite, "system-out").text = "\n".join(_plain(check["why"]) for check in checks)
    SubElement(suite, "system-err")
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _properties(document: Mapping[str, Json]) -> dict[str, str]:
    properties = {"verdict": document["verdict"]}
    for name, model in document["models"].items():
        properties |= {f"{name}.path": model["path"], f"{name}.sha256": model["sha256"]}
    if "runtime" in document:
        properties |= {
            "device": document["device"]["cpu"],
            "runtime": document["runtime"],
            "board": document["board"] or "",
        }
    return {key: str(value) for key, value in properties.items()}


def _plain(text: object) -> str:
    """Replace the control characters that XML cannot hold."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in str(text)).encode("utf-8", "replace").decode()
