// SPDX-License-Identifier: Apache-2.0
#include "worker/keygen_command.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "pipeline/data/messages.h"
#include "pipeline/net/key_files.h"
#include "worker/exit_code.h"

namespace siftd {
namespace {

constexpr std::size_t kNameMost = 64;
constexpr Role kRoles[] = {Role::kLoader, Role::kTrainer, Role::kPublisher, Role::kMonitor};

int Fail(const Status& status) {
  std::fprintf(stderr, "siftd keygen: %s\n", status.message().c_str());
  return status.code() == Code::kInvalidArgument ? kExitUsage : kExitFailure;
}

Status MakeFolder(const std::string& path, mode_t mode) {
  if (mkdir(path.c_str(), mode) == 0) {
    chmod(path.c_str(), mode);  // whatever the umask is
    return OkStatus();
  }
  if (errno != EEXIST)
    return Unavailable("cannot make folder '" + path + "': " + std::strerror(errno));
  return CheckOnlyOwnerWrites(path);
}

std::string ClientKeysOf(const std::string& folder) { return folder + "/clients"; }

std::string PublicKeyOf(const KeygenOptions& o, const std::string& role) {
  return ClientKeysOf(o.folder) + "/" + role + "/" + o.name + ".key";
}

// DIR, DIR/clients and a folder for each role.
Status MakeFolders(const std::string& folder) {
  SIFTD_RETURN_IF_ERROR(MakeFolder(folder, 0700));
  SIFTD_RETURN_IF_ERROR(MakeFolder(ClientKeysOf(folder), 0755));
  for (const Role role : kRoles)
    SIFTD_RETURN_IF_ERROR(MakeFolder(ClientKeysOf(folder) + "/" + RoleName(role), 0755));
  return OkStatus();
}

// Before anything is written.
Status CheckFree(const std::vector<std::string>& paths, bool force) {
  for (const std::string& path : paths) {
    if (!force && access(path.c_str(), F_OK) == 0) {
      return FailedPrecondition("'" + path +
                                "' is there already; --force replaces it, and whoever "
                                "has the old key is shut out");
    }
  }
  return OkStatus();
}

Status CheckName(const std::string& name) {
  const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  });
  if (!name.empty() && name.size() <= kNameMost && plain && name[0] != '.' && name != "worker")
    return OkStatus();
  return InvalidArgument("name is '" + name +
                         "'; allowed: 1 to 64 of A-Z a-z 0-9 - _ . with no dot first, but not "
                         "'worker', which is the worker's own");
}

Status CheckRoles(const std::vector<std::string>& roles) {
  for (const std::string& role : roles) {
    const bool known = std::any_of(std::begin(kRoles), std::end(kRoles),
                                   [&](Role r) { return role == RoleName(r); });
    if (!known)
      return InvalidArgument("role is '" + role +
                             "'; allowed: loader, trainer, publisher, monitor");
  }
  return OkStatus();
}

Status MakeWorkerKeys(const KeygenOptions& o) {
  SIFTD_RETURN_IF_ERROR(MakeFolders(o.folder));
  SIFTD_ASSIGN_OR_RETURN(const CurveKeys keys, MakeCurveKeys());
  const std::string base = o.folder + "/worker.key";
  SIFTD_RETURN_IF_ERROR(CheckFree({base, base + "_secret"}, o.force));
  SIFTD_RETURN_IF_ERROR(WriteSecretKeyFile(
      base + "_secret", "SECRET key of siftd workers: for the workers' hosts alone", keys,
      o.force));
  SIFTD_RETURN_IF_ERROR(WritePublicKeyFile(base, "Public key of siftd workers: for every client",
                                           keys.public_key, o.force));
  std::printf(
      "%s_secret  secret: siftd worker --key-file %s_secret --client-keys %s\n"
      "%s         public: copy it beside each client's secret key\n",
      base.c_str(), base.c_str(), ClientKeysOf(o.folder).c_str(), base.c_str());
  return OkStatus();
}

Status MakeClientKeys(const KeygenOptions& o) {
  SIFTD_RETURN_IF_ERROR(CheckName(o.name));
  SIFTD_RETURN_IF_ERROR(CheckRoles(o.roles));
  SIFTD_RETURN_IF_ERROR(MakeFolders(o.folder));
  SIFTD_ASSIGN_OR_RETURN(const CurveKeys keys, MakeCurveKeys());
  const std::string secret = o.folder + "/" + o.name + ".key_secret";
  std::vector<std::string> paths{secret};
  for (const Role role : kRoles) paths.push_back(PublicKeyOf(o, RoleName(role)));
  SIFTD_RETURN_IF_ERROR(CheckFree(paths, o.force));
  for (const Role role : kRoles) unlink(PublicKeyOf(o, RoleName(role)).c_str());  // the old key's
  SIFTD_RETURN_IF_ERROR(WriteSecretKeyFile(
      secret, "SECRET key of siftd client '" + o.name + "': for this client alone", keys, o.force));
  std::printf("%s  secret: keys=\"%s\" in Python, --keys %s for siftd status\n", secret.c_str(),
              secret.c_str(), secret.c_str());
  for (const std::string& role : o.roles) {
    const std::string path = PublicKeyOf(o, role);
    SIFTD_RETURN_IF_ERROR(WritePublicKeyFile(
        path, "Public key of siftd client '" + o.name + "': for the workers' client_keys",
        keys.public_key, o.force));
    std::printf("%s  public: belongs into the workers' client_keys, folder %s\n", path.c_str(),
                role.c_str());
  }
  return OkStatus();
}

}  // namespace

int RunKeygenWorker(const KeygenOptions& options) {
  const Status status = MakeWorkerKeys(options);
  return status.ok() ? kExitOk : Fail(status);
}

int RunKeygenClient(const KeygenOptions& options) {
  const Status status = MakeClientKeys(options);
  return status.ok() ? kExitOk : Fail(status);
}

}  // namespace siftd
