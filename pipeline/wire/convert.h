// SPDX-License-Identifier: Apache-2.0
// Small conversions between protobuf messages and pipeline/data values that several codecs share.
// Internal to pipeline/wire. Pure; any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/data/messages.h"
#include "pipeline/wire/policy_codec.h"
#include "siftd/v1/artifact.pb.h"
#include "siftd/v1/wire.pb.h"

namespace siftd::wire {

template <typename T, typename Repeated>
std::vector<T> ToVector(const Repeated& from) {
  return std::vector<T>(from.begin(), from.end());
}

template <typename Repeated, typename T>
void FromVector(const std::vector<T>& from, Repeated* to) {
  to->Add(from.begin(), from.end());
}

inline SessionId From(const v1::Session& s) { return {s.incarnation(), s.counter()}; }
inline BatchKey From(const v1::Key& k) { return {k.loader(), k.pass(), k.seq()}; }  // unchecked
void To(const SessionId& from, v1::Session* to);
void To(const BatchKey& from, v1::Key* to);

// What an error calls a field. It is put together only where there is an error.
class Field {
 public:
  Field(const char* name) : name_(name) {}                                // NOLINT: "sample_id"
  Field(const char* name, int index) : name_(name), index_(index) {}      // "tensor[1]"
  Field(const Field& of, const char* part) : Field(of) { part_ = part; }  // "tensor[1].dtype"
  std::string Name() const;

 private:
  const char* name_;
  int index_ = -1;
  const char* part_ = "";
};

// "field is value; allowed: range"
Status Refuse(const std::string& field, const std::string& value, const std::string& allowed);
Status CheckAtMost(const Field& field, std::size_t value, std::size_t most);
// Whoever gets an index or a number of ranks may make a table of that size.
Status CheckLoader(const Field& field, std::uint32_t loader);
// "key": also that an interval can end behind its seq.
Status CheckKey(const v1::Key& key);
// The length; that it is UTF-8 was checked by the protobuf parser.
Status CheckText(const Field& field, const std::string& text, std::size_t most);

// `text` as a peer accepts it: at most kMaxTextBytes, bytes that are no UTF-8 become '?'.
std::string ClipText(std::string_view text);
// Each name once.
Status CheckUnique(const std::string& field, const std::vector<std::string_view>& names);

Result<DType> FromDType(const Field& field, int dtype);
Result<TensorSpec> From(const Field& field, const v1::TensorSpec& from);
Result<TensorSpec> From(const Field& field, const v1::TensorDesc& from);  // sizes unchecked
// Bytes that the spec's fixed sizes say; refuses negative sizes and overflow.
Result<std::size_t> SpecBytes(const Field& field, const TensorSpec& spec);
void To(const TensorSpec& from, v1::TensorSpec* to);

Result<DecidedSet> From(const v1::Decided& from);
void To(const DecidedSet& from, v1::Decided* to);

Result<Decision> From(const v1::Decision& from);
void To(const Decision& from, v1::Decision* to);

// Payload tensors: frame `desc.frame()` of the payload, which starts at frames[2].
Result<std::vector<Tensor>> FromTensors(
    const google::protobuf::RepeatedPtrField<v1::TensorDesc>& descs, const Frames& frames,
    std::size_t rows);
void ToTensors(const std::vector<Tensor>& tensors,
               google::protobuf::RepeatedPtrField<v1::TensorDesc>* descs, Frames* frames);

}  // namespace siftd::wire
