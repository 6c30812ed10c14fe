"""Reads an export with other people's readers and prints what it found as JSON, for the Rust tests to compare."""

import csv
import json
import sys


def parquet(path):
    """Rows as pyarrow sees them; times in Unix microseconds."""
    import pyarrow
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    table = file.read()
    types = {field.name: str(field.type) for field in table.schema}
    for place, field in enumerate(table.schema):
        if pyarrow.types.is_timestamp(field.type):
            table = table.set_column(place, field.name, table.column(place).cast("int64"))
    groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
    return {
        "types": types,
        "groups": [group.num_rows for group in groups],
        "compression": sorted({group.column(n).compression for group in groups for n in range(group.num_columns)}),
        "rows": table.to_pylist(),
    }


def comma_separated(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def ocsf(path):
    """Classes of the events that the schema of OCSF 1.8.0 accepts, and what it says against the others."""
    import jsonschema
    from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

    schemas = OcsfJsonSchemaEmbedded(get_ocsf_schema(version="1.8.0"))
    validators = {}
    classes, errors = {}, []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            event = json.loads(line)
            key = (event["class_uid"], tuple(event["metadata"].get("profiles", [])))
            if key not in validators:
                name = schemas.lookup_class_name_from_uid(class_uid=key[0])
                schema = schemas.get_class_schema(class_name=name, profiles=list(key[1]))
                validators[key] = jsonschema.Draft202012Validator(schema)
            classes[str(key[0])] = classes.get(str(key[0]), 0) + 1
            for error in validators[key].iter_errors(event):
                errors.append(f"line {number}: {error.json_path}: {error.message[:300]}")
    return {"classes": classes, "errors": errors[:20]}


READERS = {"parquet": parquet, "csv": comma_separated, "ocsf": ocsf}

if __name__ == "__main__":
    json.dump(READERS[sys.argv[1]](sys.argv[2]), sys.stdout)
