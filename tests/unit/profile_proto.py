"""pprof's messages for the protobuf library: an independent reader of what we write."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# https://github.com/google/pprof/blob/main/proto/profile.proto: name, number, type; `*` is repeated.
_MESSAGES = {
    "ValueType": "type 1 int64, unit 2 int64",
    "Label": "key 1 int64, str 2 int64, num 3 int64, num_unit 4 int64",
    "Sample": "location_id 1 *uint64, value 2 *int64, label 3 *Label",
    "Mapping": "id 1 uint64, memory_start 2 uint64, memory_limit 3 uint64, file_offset 4 uint64, filename 5 int64, "
    "build_id 6 int64, has_functions 7 bool, has_filenames 8 bool, has_line_numbers 9 bool, has_inline_frames 10 bool",
    "Line": "function_id 1 uint64, line 2 int64",
    "Location": "id 1 uint64, mapping_id 2 uint64, address 3 uint64, line 4 *Line, is_folded 5 bool",
    "Function": "id 1 uint64, name 2 int64, system_name 3 int64, filename 4 int64, start_line 5 int64",
    "Profile": "sample_type 1 *ValueType, sample 2 *Sample, mapping 3 *Mapping, location 4 *Location, function 5 *Function, "
    "string_table 6 *string, drop_frames 7 int64, keep_frames 8 int64, time_nanos 9 int64, duration_nanos 10 int64, "
    "period_type 11 ValueType, period 12 int64, comment 13 *int64, default_sample_type 14 int64",
}


def profile_class() -> Any:
    """The message Profile."""
    field = descriptor_pb2.FieldDescriptorProto
    plain = {"int64": field.TYPE_INT64, "uint64": field.TYPE_UINT64, "bool": field.TYPE_BOOL, "string": field.TYPE_STRING}
    file = descriptor_pb2.FileDescriptorProto(name="profile.proto", package="perftools.profiles", syntax="proto3")
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for text in fields.split(", "):
            name, number, kind = text.split()
            label = field.LABEL_REPEATED if kind.startswith("*") else field.LABEL_OPTIONAL
            kind = kind.removeprefix("*")
            added = described.field.add(name=name, number=int(number), label=label)
            if kind in plain:
                added.type = plain[kind]
            else:
                added.type, added.type_name = field.TYPE_MESSAGE, f".perftools.profiles.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("perftools.profiles.Profile"))
