// SPDX-License-Identifier: Apache-2.0
// Stands before protobuf's header of this name where ThreadSanitizer is on: that one gives maps two
// more members then, which Debian's libprotobuf, built without it, does not know of. They serve a
// check of protobuf's own; without them accesses are watched as everywhere else.
#ifndef SIFTD_TESTS_SANITIZE_MAP_FIELD_H_
#define SIFTD_TESTS_SANITIZE_MAP_FIELD_H_

#include <atomic>  // the standard library's headers see the macro
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#pragma push_macro("__SANITIZE_THREAD__")
#undef __SANITIZE_THREAD__
#include_next <google/protobuf/map_field.h>
#pragma pop_macro("__SANITIZE_THREAD__")

#endif  // SIFTD_TESTS_SANITIZE_MAP_FIELD_H_
