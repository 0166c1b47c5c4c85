// SPDX-License-Identifier: Apache-2.0
#include "pipeline/net/key_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>

namespace siftd {
namespace {

constexpr std::size_t kKeyText = 40;     // characters of a key in Z85
constexpr std::size_t kFileMost = 4096;  // bytes

std::string Mode(const struct stat& s) {
  char text[8];
  std::snprintf(text, sizeof(text), "%04o", static_cast<unsigned>(s.st_mode & 07777));
  return text;
}

Status CheckOwner(const std::string& path, const struct stat& s) {
  if (s.st_uid == geteuid() || s.st_uid == 0) return OkStatus();
  return InvalidArgument("'" + path + "' belongs to user " + std::to_string(s.st_uid) +
                         "; allowed: this user, " + std::to_string(geteuid()) + ", or root");
}

// `secret`: nobody else may read it; else nobody else may write it.
Status CheckFile(const std::string& path, const struct stat& s, bool secret) {
  if (!S_ISREG(s.st_mode)) return InvalidArgument("key file '" + path + "' is no regular file");
  SIFTD_RETURN_IF_ERROR(CheckOwner(path, s));
  if (secret && (s.st_mode & 077) != 0) {
    return InvalidArgument("secret key file '" + path + "' has mode " + Mode(s) +
                           ", so that others may read it; allowed: 0600 (chmod 600 " + path + ")");
  }
  if (!secret && (s.st_mode & 022) != 0) {
    return InvalidArgument("key file '" + path + "' has mode " + Mode(s) +
                           ", so that others may write it; allowed: 0644 (chmod 644 " + path + ")");
  }
  return OkStatus();
}

class File {
 public:
  explicit File(int fd) : fd_(fd) {}
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

// What is checked is what is read: one open file.
Result<std::string> ReadKeyText(const std::string& path, bool secret) {
  const File file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd() < 0) {
    return InvalidArgument("cannot read key file '" + path + "': " + std::strerror(errno) +
                           "; make keys by `siftd keygen`");
  }
  struct stat s {};
  if (fstat(file.fd(), &s) != 0)
    return InvalidArgument("cannot read key file '" + path + "': " + std::strerror(errno));
  SIFTD_RETURN_IF_ERROR(CheckFile(path, s, secret));
  std::string text(kFileMost + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t got = read(file.fd(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      return InvalidArgument("cannot read key file '" + path + "': " + std::strerror(errno));
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  if (size > kFileMost) {
    return InvalidArgument("key file '" + path + "' is larger than " + std::to_string(kFileMost) +
                           " bytes; allowed: what `siftd keygen` writes");
  }
  text.resize(size);
  return text;
}

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r";
  const std::size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

// Of the line `field = "value"`; empty: there is none.
std::string ValueOf(std::string_view text, std::string_view field) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = Trim(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.substr(0, field.size()) != field) continue;
    line = Trim(line.substr(field.size()));
    if (line.empty() || line.front() != '=') continue;
    line = Trim(line.substr(1));
    if (line.size() >= 2 && line.front() == '"' && line.back() == '"') {
      line.remove_prefix(1);
      line.remove_suffix(1);
    }
    return std::string(line);
  }
  return {};
}

Status CheckKey(const std::string& path, const char* field, const std::string& key) {
  std::array<std::uint8_t, 32> bytes{};
  // libzmq reads up to a zero byte, and takes a shorter text too.
  if (key.size() == kKeyText && key.find('\0') == std::string::npos &&
      zmq_z85_decode(bytes.data(), key.c_str()) != nullptr)
    return OkStatus();
  return InvalidArgument("key file '" + path + "': " + field +
                         (key.empty() ? " is not there" : " is no key") +
                         "; allowed: 40 characters of Z85, as `siftd keygen` writes them");
}

Status WriteWhole(const std::string& path, const std::string& text, mode_t mode, bool force) {
  const std::string partial = path + ".partial";
  const std::string failed = "cannot write key file '" + path + "': ";
  if (!force && access(path.c_str(), F_OK) == 0) {
    return FailedPrecondition("'" + path +
                              "' is there already; --force replaces it, and whoever has "
                              "the old key is shut out");
  }
  unlink(partial.c_str());
  {
    const File file(
        open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode));
    if (file.fd() < 0) return Unavailable(failed + std::strerror(errno));
    // Whatever the umask is.
    if (fchmod(file.fd(), mode) != 0 ||
        write(file.fd(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
        fsync(file.fd()) != 0) {
      const std::string why = std::strerror(errno);
      unlink(partial.c_str());
      return Unavailable(failed + why);
    }
  }
  // link() does not replace a file that another process made meanwhile.
  const int rc =
      force ? rename(partial.c_str(), path.c_str()) : link(partial.c_str(), path.c_str());
  const std::string why = std::strerror(errno);
  unlink(partial.c_str());
  return rc == 0 ? OkStatus() : Unavailable(failed + why);
}

}  // namespace

Result<CurveKeys> MakeCurveKeys() {
  char public_key[kKeyText + 1];
  char secret_key[kKeyText + 1];
  if (zmq_curve_keypair(public_key, secret_key) != 0)
    return Unavailable(std::string("this libzmq makes no CURVE keys: ") +
                       zmq_strerror(zmq_errno()));
  return CurveKeys{public_key, secret_key};
}

std::string KeyFileText(const std::string& about, const std::string& public_key,
                        const std::string& secret_key) {
  std::string text = "#   " + about + "\n";
  text += "#   In the form of a ZeroMQ certificate (czmq, pyzmq); keys in Z85.\n\ncurve\n";
  text += "    public-key = \"" + public_key + "\"\n";
  if (!secret_key.empty()) text += "    secret-key = \"" + secret_key + "\"\n";
  return text;
}

Result<CurveKeys> ParseSecretKey(std::string_view text, const std::string& path) {
  CurveKeys keys{ValueOf(text, "public-key"), ValueOf(text, "secret-key")};
  SIFTD_RETURN_IF_ERROR(CheckKey(path, "public-key", keys.public_key));
  SIFTD_RETURN_IF_ERROR(CheckKey(path, "secret-key", keys.secret_key));
  char derived[kKeyText + 1];
  if (zmq_curve_public(derived, keys.secret_key.c_str()) != 0 || keys.public_key != derived) {
    return InvalidArgument(
        "key file '" + path +
        "': public-key and secret-key are of different pairs; make keys by `siftd keygen`");
  }
  return keys;
}

Result<std::string> ParsePublicKey(std::string_view text, const std::string& path) {
  if (!ValueOf(text, "secret-key").empty()) {
    return InvalidArgument("key file '" + path +
                           "' holds a secret key; allowed here: the public one, NAME.key, alone");
  }
  std::string key = ValueOf(text, "public-key");
  SIFTD_RETURN_IF_ERROR(CheckKey(path, "public-key", key));
  return key;
}

Result<CurveKeys> ReadSecretKeyFile(const std::string& path) {
  SIFTD_ASSIGN_OR_RETURN(const std::string text, ReadKeyText(path, true));
  return ParseSecretKey(text, path);
}

Result<std::string> ReadPublicKeyFile(const std::string& path) {
  SIFTD_ASSIGN_OR_RETURN(const std::string text, ReadKeyText(path, false));
  return ParsePublicKey(text, path);
}

Result<ClientKeys> ReadClientKeys(const std::string& keys, const std::string& worker_key) {
  ClientKeys found;
  found.file = keys;
  found.worker_file = worker_key;
  if (worker_key.empty()) {
    const std::size_t slash = keys.rfind('/');
    found.worker_file =
        (slash == std::string::npos ? "" : keys.substr(0, slash + 1)) + "worker.key";
  }
  SIFTD_ASSIGN_OR_RETURN(found.own, ReadSecretKeyFile(keys));
  SIFTD_ASSIGN_OR_RETURN(found.worker, ReadPublicKeyFile(found.worker_file));
  return found;
}

Status WriteSecretKeyFile(const std::string& path, const std::string& about, const CurveKeys& keys,
                          bool force) {
  return WriteWhole(path, KeyFileText(about, keys.public_key, keys.secret_key), 0600, force);
}

Status WritePublicKeyFile(const std::string& path, const std::string& about,
                          const std::string& public_key, bool force) {
  return WriteWhole(path, KeyFileText(about, public_key, ""), 0644, force);
}

Status CheckOnlyOwnerWrites(const std::string& path) {
  struct stat s {};
  if (stat(path.c_str(), &s) != 0)
    return InvalidArgument("cannot look at '" + path + "': " + std::strerror(errno));
  SIFTD_RETURN_IF_ERROR(CheckOwner(path, s));
  if ((s.st_mode & 022) != 0) {
    return InvalidArgument("'" + path + "' has mode " + Mode(s) +
                           ", so that others may write it; allowed: 0755 (chmod go-w " + path +
                           ")");
  }
  return OkStatus();
}

}  // namespace siftd
