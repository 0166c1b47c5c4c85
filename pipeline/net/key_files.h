// SPDX-License-Identifier: Apache-2.0
// Key files: CURVE keys (Z85, 40 characters) as text, in the form of czmq's and pyzmq's
// certificates. A secret file that others may read is refused, and so is a public one that others
// may write. No text of an error holds a key. Any thread; each call reads or writes its files.
#pragma once

#include <string>
#include <string_view>

#include "pipeline/base/status.h"

namespace siftd {

struct CurveKeys {
  std::string public_key;
  std::string secret_key;
};

// What a client connects with.
struct ClientKeys {
  CurveKeys own;
  std::string worker;  // public key of the workers
  std::string file;    // that `own` came from, for texts
  std::string worker_file;
};

// A fresh pair. Error: this libzmq has no CURVE.
Result<CurveKeys> MakeCurveKeys();

// What the files say, and how it is read; `path`: for texts. Pure. No secret key: a public file.
std::string KeyFileText(const std::string& about, const std::string& public_key,
                        const std::string& secret_key);
Result<CurveKeys> ParseSecretKey(std::string_view text, const std::string& path);
Result<std::string> ParsePublicKey(std::string_view text, const std::string& path);

Result<CurveKeys> ReadSecretKeyFile(const std::string& path);
Result<std::string> ReadPublicKeyFile(const std::string& path);
// `worker_key` empty: worker.key beside `keys`.
Result<ClientKeys> ReadClientKeys(const std::string& keys, const std::string& worker_key);

// Modes 0600 and 0644. An existing file is replaced only if `force`. `about`: a line on what it is.
Status WriteSecretKeyFile(const std::string& path, const std::string& about, const CurveKeys& keys,
                          bool force);
Status WritePublicKeyFile(const std::string& path, const std::string& about,
                          const std::string& public_key, bool force);

// Error: somebody else than its owner (this user, or root) could change what is at `path`.
Status CheckOnlyOwnerWrites(const std::string& path);

}  // namespace siftd
