package main

import (
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// adminConfig is how Go code connects as the admin, as a user of DIR/kubeconfig
// would.
func adminConfig(url string, certs *certificates) *rest.Config {
	return &rest.Config{
		Host: url,
		TLSClientConfig: rest.TLSClientConfig{
			CAData:   certs.servingCA,
			CertData: certs.adminCert,
			KeyData:  certs.adminKey,
		},
	}
}

// writeKubeconfig writes the admin's kubeconfig. It names no other file, so it
// can be copied.
func writeKubeconfig(dir *directory, url string, certs *certificates) error {
	const name = "devcluster"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: url, CertificateAuthorityData: certs.servingCA}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: certs.adminCert, ClientKeyData: certs.adminKey}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	content, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("encoding the kubeconfig: %w", err)
	}
	return dir.write(kubeconfigFile, content)
}
